package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// provisionerName is what a StorageClass names to get its volumes from here.
	provisionerName = "local.environment-manager.test"
	// provisionerAnnotation is set on claims by the controller manager, to say who is to serve them.
	provisionerAnnotation = "volume.kubernetes.io/storage-provisioner"
	// nodeAnnotation is set on claims by the scheduler once their first pod has a node.
	nodeAnnotation = "volume.kubernetes.io/selected-node"
)

// provisioner makes a `local` volume for each claim: a folder below `folder`. The kubelet gives such a volume to the
// pod's fsGroup, which it does not do with host paths.
type provisioner struct {
	client kubernetes.Interface
	folder string
	node   string
}

func newProvisionerCommand() *cobra.Command {
	p := &provisioner{}
	var kubeconfig string
	command := &cobra.Command{
		Use:   "provisioner",
		Short: "Gives every claim of its StorageClasses a folder of this machine",
		RunE: func(*cobra.Command, []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			// Tests make many claims at once.
			config.QPS, config.Burst = 200, 400
			if p.client, err = kubernetes.NewForConfig(config); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
			defer stop()
			p.run(ctx)
			return nil
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&p.folder, "folder", "", "where the volumes are")
	command.Flags().StringVar(&p.node, "node", "", "the node that has the folder")
	return command
}

// run follows claims and volumes until ctx ends. What failed is tried again at the next resync.
func (p *provisioner) run(ctx context.Context) {
	factory := informers.NewSharedInformerFactory(p.client, 5*time.Second)
	onChange(factory.Core().V1().PersistentVolumeClaims().Informer(), func(claim *core.PersistentVolumeClaim) error {
		return p.serve(ctx, claim)
	})
	onChange(factory.Core().V1().PersistentVolumes().Informer(), func(volume *core.PersistentVolume) error {
		return p.reclaim(ctx, volume)
	})
	factory.Start(ctx.Done())
	<-ctx.Done()
}

func onChange[T any](informer cache.SharedIndexInformer, do func(T) error) {
	handle := func(object any) {
		if err := do(object.(T)); err != nil {
			log.Print(err)
		}
	}
	informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    handle,
		UpdateFunc: func(_, object any) { handle(object) },
	})
}

// serve makes the volume of a claim that waits for one.
func (p *provisioner) serve(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Spec.StorageClassName == nil ||
		claim.Annotations[provisionerAnnotation] != provisionerName || claim.Annotations[nodeAnnotation] != p.node {
		return nil
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(p.folder, name)
	if err := os.MkdirAll(path, 0o750); err != nil {
		return err
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, p.volume(name, path, claim), meta.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p *provisioner) volume(name, path string, claim *core.PersistentVolumeClaim) *core.PersistentVolume {
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": provisionerName},
		},
		Spec: core.PersistentVolumeSpec{
			StorageClassName:              *claim.Spec.StorageClassName,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			ClaimRef: &core.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{
				NodeSelectorTerms: []core.NodeSelectorTerm{{MatchExpressions: []core.NodeSelectorRequirement{{
					Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{p.node},
				}}}},
			}},
		},
	}
}

// reclaim removes a volume whose claim is gone, folder first, so that a failure leaves something to try again.
func (p *provisioner) reclaim(ctx context.Context, volume *core.PersistentVolume) error {
	if volume.Status.Phase != core.VolumeReleased || volume.Spec.Local == nil ||
		volume.Annotations["pv.kubernetes.io/provisioned-by"] != provisionerName {
		return nil
	}
	if filepath.Dir(volume.Spec.Local.Path) != p.folder {
		return fmt.Errorf("%s lies outside %s", volume.Name, p.folder)
	}
	if err := os.RemoveAll(volume.Spec.Local.Path); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
	if errors.IsNotFound(err) {
		return nil
	}
	return err
}
